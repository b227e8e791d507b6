"""Models behind the interfaces of other toolkits and engines: a module each, which does not import
its own."""
