"""A small language for messages: Jinja's syntax over plain JSON values, with bounded cost.

Jinja2 reads the template; we evaluate what it read, instead of running the Python that Jinja2
would generate. Its sandbox keeps templates from Python's insides but bounds neither time nor
memory: ``'a' * 10 ** 9``, ``|center(10 ** 9)``, nested loops, ``{% set x = x ~ x %}`` thirty
times. Here every step is paid from a budget, and there is nothing to break out to: values are
text, numbers, lists and mappings, a dot looks up an item and never an attribute, and there are
no methods to call. What is left of Jinja are expressions, filters, tests, ``if``, ``for`` and
``set``.

``values`` is what a template handles; ``operators``, ``filters``, ``own_filters`` and
``predicates`` what it does with that; ``evaluation`` walks through it with a ``scope``;
``language`` reads and checks it at start.
"""
