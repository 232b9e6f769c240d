"""How well a preset hears and sees, measured on manifests of anybody's files."""
