"""The table of options, from which validation, forms, lists, APIs and recipes derive."""
