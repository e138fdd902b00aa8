"""The process that starts the others, restarts them when they die, and runs periodic chores."""
