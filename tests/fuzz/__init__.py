"""Files that lie, for every reader: made of good ones by changing what a field says.

`python -m fuzz` (in ``tests/``; ``make fuzz``) runs them, each with a limit of time and memory.
"""
