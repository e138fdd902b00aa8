"""The table of options, from which validation, forms, prompt lists, APIs and recipes derive."""
