"""A world in one thread: processes, time, network and database, all from one seed.

The code under test is the real one. What is simulated lies around it: the event loop (`loop`), the
processes that share it (`process`), and the network and the database between them. The same seed
and the same code give the same run, so whatever goes wrong once can be looked at again.
"""
