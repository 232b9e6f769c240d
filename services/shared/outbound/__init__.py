"""HTTP requests to URLs that clients provide, restricted to public addresses (protection against SSRF)."""
