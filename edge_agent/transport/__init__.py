"""MQTT through paho, and blobs by content address over it. Shared by agent and publisher."""
