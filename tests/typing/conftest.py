"""What is read by mypy alone."""

collect_ignore = ["user_side.py"]
