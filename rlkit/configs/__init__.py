"""Settings: dataclasses are the schema, YAML files the presets."""
