"""Everything that is kept: the database (all SQL lives here) and the picture files."""
