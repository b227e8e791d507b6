"""Models behind the interfaces of other toolkits: a module each, which does not import its own."""
