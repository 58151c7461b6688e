"""What runs and watches the proxy elsewhere: manifests for Kubernetes, alerts, a dashboard."""
