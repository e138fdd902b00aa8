"""The options of a picture and of a batch: one table, from which validation, forms, lists, APIs and recipes derive."""
