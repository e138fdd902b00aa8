"""The process that starts the others, restarts what dies, and runs periodic chores."""
