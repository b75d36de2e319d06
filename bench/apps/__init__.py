"""The same cart, once for each peer, each written the way its own documentation would."""
