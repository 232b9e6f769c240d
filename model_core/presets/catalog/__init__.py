"""The presets, a module for each: it defines `PRESET`. A module that is added here is found by itself.

Every command that names a preset imports all of these modules, so none imports torch before a part is built.
"""
