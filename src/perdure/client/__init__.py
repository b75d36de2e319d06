"""Calls from elsewhere: `perdure.Client`, and the typed clients that `perdure client` writes.

`transport.py` sends calls, for both: a generated client in Python holds it word for word. Where the
classes can be imported, `remote.py` gives references to their actors. Where not, `api.py` arranges
what an App can be asked, and `python_*.py` and `typescript_*.py` write it down.
"""
