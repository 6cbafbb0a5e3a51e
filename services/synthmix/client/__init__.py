"""What a program uses to ask the services: the typed client, connections, files in, studies' files and reports out."""
