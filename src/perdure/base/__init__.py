"""The floor: errors, limits, time, randomness, keys and JSON. Imports nothing else of ours."""
