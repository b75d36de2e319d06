"""The cluster: which process owns which actors, and how processes talk to each other.

The words of this package:

- *member*: one start of a process that owns actors; *incarnation*: its number, never used again.
- *shard*: one of 4,096 portions of all keys; each has one owner, or waits for one.
- *lease*: until when, by the database's clock, nobody takes a member's shards without its consent.
- *fence*: the row in the database that each commit of a member changes; to take its shards is to
  remove that row. Two owners may think, only one may commit.
- *gateway*: a process as the one that sends calls to where their actors are.
- *link*: an authenticated connection between two processes.
"""
