"""A node: the process that keeps actors awake, runs their turns and commits them."""
