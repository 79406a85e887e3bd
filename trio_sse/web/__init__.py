"""What Quart answers: pages, health, publishing, and streams over HTTP/2 and TLS."""
