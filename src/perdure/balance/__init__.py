"""The load balancer: requests and connections in, one of several backends out.

It keeps no state that matters: two balancers side by side agree without talking, and one that dies
breaks only its open connections.
"""
