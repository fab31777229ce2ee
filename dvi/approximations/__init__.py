"""What is fitted: each file is one family of approximations, the same verbs in the same order."""
