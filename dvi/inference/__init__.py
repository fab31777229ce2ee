"""How an approximation improves: gradient estimators, update rules, schedules and averages, all pure functions."""
