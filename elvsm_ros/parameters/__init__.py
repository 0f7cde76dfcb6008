"""The node's parameters: one table, and what is made of it.

Everybody else imports `table` (Settings, declarations); `page` and `yaml_file` generate docs/parameters.md and
config/elvsm.yaml. Start at `table`.
"""
