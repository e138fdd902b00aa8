"""The gallery: picture files with their recipes, their rows, boards, source pictures, and their clean-up."""
