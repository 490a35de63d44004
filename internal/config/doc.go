// Package config reads the config file of a server, shoal.yaml. What is wrong
// with a file is said with its line and column, all of it at once.
package config
