"""Recordings, videos and pictures of tenants, stored under ids derived from their content."""
