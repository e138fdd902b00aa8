"""What a caller sends costs no more processor time and memory than it is worth."""
