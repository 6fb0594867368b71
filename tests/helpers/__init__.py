"""Models, modules and harnesses that tests share."""
