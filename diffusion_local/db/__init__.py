"""The database: connections, transactions, migrations, row mapping, row access, and all dialect-specific SQL."""
