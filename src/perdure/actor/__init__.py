"""One actor: its model, its turns, its output gate. Does no I/O and reads no clock of its own.

The two nouns that carry the system:

*turn*: one run of one method on one actor, from its first statement to its result. Turns of one
actor run one at a time; a turn's effects happen together or not at all.

*output gate*: where everything that a turn lets out (replies, errors, calls to other actors) waits
until the commit that holds the turn is durable. If the commit fails, nothing gets out.
"""
