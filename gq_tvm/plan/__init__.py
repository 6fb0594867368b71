"""The one description of a compiled model; see ``plan.Plan``.

What describes it (`plan`, `size`) and its file (`text`, `reader`) need no TVM; `from_module` does,
which makes a plan of lowered functions.
"""
