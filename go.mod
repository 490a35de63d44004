module github.com/shoalserve/shoal

go 1.26
