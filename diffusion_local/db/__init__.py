"""The database: connections and transactions, its tables, who may see which rows, and all SQL of one dialect only."""
