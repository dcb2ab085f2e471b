"""Extensions and patches of Faust; COMPAT.md lists each with its reason and test."""
