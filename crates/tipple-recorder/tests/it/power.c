/*
 * What a disk has when the power fails, kept beside what files show, put under a recorder with LD_PRELOAD. The strictest
 * disk that the standard allows, for the folder POWER_OF and the files in it:
 *
 *   the bytes of a file    those that it had at its last fdatasync or fsync
 *   the names in a folder  those that it had at its last fsync
 *   the folder itself      if the one that it is in had an fsync since it was made
 *
 * The folder POWER has a file for each inode, and `names`: a line with an inode and a name for each that is on disk; and
 * `folder`, if POWER_OF is on disk. Each
 * of them changes at once, so that the program may be killed at any moment.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether the descriptor is the folder (1), a file in it (2), or what the folder is in (3). */
static int is_watched(int fd)
{
	char link[64], path[4096];
	const char *folder = getenv("POWER_OF");
	ssize_t length;
	size_t prefix;
	if (!folder)
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof path - 1);
	if (length < 0)
		return 0;
	path[length] = 0;
	prefix = strrchr(folder, '/') - folder;
	if (!strncmp(path, folder, prefix) && path[prefix] == 0)
		return 3;
	prefix = strlen(folder);
	if (strncmp(path, folder, prefix))
		return 0;
	return path[prefix] == 0 ? 1 : path[prefix] == '/' ? 2 : 0;
}

/* Puts what the stream has got into the file `name` of POWER, as a whole. */
static void put(FILE *staged, const char *from, const char *name)
{
	char path[4200];
	snprintf(path, sizeof path, "%s/%s", getenv("POWER"), name);
	if (fclose(staged) || rename(from, path))
		abort();
}

static FILE *stage(char *path, size_t size)
{
	FILE *staged;
	snprintf(path, size, "%s/staged", getenv("POWER"));
	staged = fopen(path, "w");
	if (!staged)
		abort();
	return staged;
}

static void keep_bytes(int fd)
{
	char from[4200], name[32], bytes[65536];
	struct stat about;
	off_t at = 0;
	ssize_t got;
	char own[64];
	FILE *staged = stage(from, sizeof from);
	/* The recorder's descriptor may be for writing only. */
	snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
	int reading = open(own, O_RDONLY);
	if (reading < 0 || fstat(fd, &about))
		abort();
	while ((got = pread(reading, bytes, sizeof bytes, at)) > 0) {
		fwrite(bytes, 1, got, staged);
		at += got;
	}
	close(reading);
	snprintf(name, sizeof name, "%lu", (unsigned long)about.st_ino);
	put(staged, from, name);
}

static void keep_names(void)
{
	char from[4200];
	FILE *staged = stage(from, sizeof from);
	DIR *folder = opendir(getenv("POWER_OF"));
	struct dirent *entry;
	if (!folder)
		abort();
	while ((entry = readdir(folder)))
		if (entry->d_type == DT_REG)
			fprintf(staged, "%lu %s\n", (unsigned long)entry->d_ino, entry->d_name);
	closedir(folder);
	put(staged, from, "names");
}

static void keep_folder(void)
{
	char from[4200];
	FILE *staged = stage(from, sizeof from);
	if (access(getenv("POWER_OF"), F_OK))
		abort();
	put(staged, from, "folder");
}

static int synced(int fd, const char *call)
{
	int (*next)(int) = dlsym(RTLD_NEXT, call);
	int told = next(fd);
	if (told == 0) {
		switch (is_watched(fd)) {
		case 1:
			keep_names();
			break;
		case 2:
			keep_bytes(fd);
			break;
		case 3:
			keep_folder();
			break;
		}
	}
	return told;
}

int fdatasync(int fd)
{
	return synced(fd, "fdatasync");
}

int fsync(int fd)
{
	return synced(fd, "fsync");
}
