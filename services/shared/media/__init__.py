"""Media of tenants: recordings, videos and pictures, kept in the object store under what they are."""
