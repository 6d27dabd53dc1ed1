"""What can be set: settings, configuration files, folders, environment, installation."""
