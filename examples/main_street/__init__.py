"""Main Street: a shop, a log-in and a plaza that forget nothing. Start reading in `app.py`."""
