/*
 * A disk that fails, put under a recorder with LD_PRELOAD. The fault model, for files whose names have ".ndjson":
 *
 *   write      interrupted (EINTR), short, or an error (EIO, ENOSPC)
 *   ftruncate  an error; the file stays as it is
 *   fdatasync  an error; what was not on disk is lost to the disk, so that another one on the same file says nothing:
 *              who tries that is ended
 *   rename     an error; the file keeps its name
 *   open       an error, of files that are to be created
 *
 * FAULTS is the seed, how many errors there are at most, and which. Each fault is one line in the file FAULTS_LOG.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned long state;
static int errors_left = -1;
static char which[100];
static ino_t unsynced[64];
static int unsynced_count;

static ssize_t real_write(int fd, const void *bytes, size_t count)
{
	static ssize_t (*next)(int, const void *, size_t);
	if (!next)
		next = dlsym(RTLD_NEXT, "write");
	return next(fd, bytes, count);
}

static unsigned choose(unsigned of)
{
	if (errors_left < 0) {
		const char *text = getenv("FAULTS");
		errors_left = 0;
		if (text)
			sscanf(text, "%lu,%d,%99[^|]", &state, &errors_left, which);
	}
	state = state * 6364136223846793005UL + 1442695040888963407UL;
	return (state >> 33) % of;
}

static void note(const char *fault)
{
	const char *path = getenv("FAULTS_LOG");
	int fd = path ? open(path, O_WRONLY | O_APPEND) : -1;
	if (fd >= 0) {
		char line[100];
		real_write(fd, line, snprintf(line, sizeof line, "%s\n", fault));
		close(fd);
	}
}

/* One time in `of`, as long as there are errors left. */
static int fails(unsigned of, const char *fault)
{
	if (choose(of) || errors_left == 0 || !strstr(which, fault))
		return 0;
	errors_left--;
	note(fault);
	return 1;
}

static int is_recording(int fd)
{
	char link[64], path[4096];
	ssize_t length;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof path - 1);
	if (length < 0)
		return 0;
	path[length] = 0;
	return strstr(path, ".ndjson") != NULL;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
	if (count > 1 && is_recording(fd)) {
		switch (choose(8)) {
		case 0:
			note("EINTR");
			errno = EINTR;
			return -1;
		case 1:
		case 2:
			note("short");
			return real_write(fd, bytes, 1 + choose(count - 1));
		case 3:
			if (fails(2, "write EIO")) {
				errno = EIO;
				return -1;
			}
			break;
		case 4:
			if (fails(2, "write ENOSPC")) {
				errno = ENOSPC;
				return -1;
			}
			break;
		}
	}
	return real_write(fd, bytes, count);
}

int ftruncate64(int fd, off_t length)
{
	static int (*next)(int, off_t);
	if (!next)
		next = dlsym(RTLD_NEXT, "ftruncate64");
	if (is_recording(fd) && fails(2, "ftruncate")) {
		errno = EIO;
		return -1;
	}
	return next(fd, length);
}

int fdatasync(int fd)
{
	static int (*next)(int);
	if (!next)
		next = dlsym(RTLD_NEXT, "fdatasync");
	if (is_recording(fd)) {
		struct stat about;
		fstat(fd, &about);
		for (int at = 0; at < unsynced_count; at++)
			if (unsynced[at] == about.st_ino) {
				note("SYNCED AGAIN");
				abort();
			}
		if (unsynced_count < 64 && fails(3, "fdatasync")) {
			unsynced[unsynced_count++] = about.st_ino;
			errno = EIO;
			return -1;
		}
	}
	return next(fd);
}

int rename(const char *from, const char *to)
{
	static int (*next)(const char *, const char *);
	if (!next)
		next = dlsym(RTLD_NEXT, "rename");
	if (strstr(from, ".ndjson") && fails(3, "rename")) {
		errno = EIO;
		return -1;
	}
	return next(from, to);
}

int open64(const char *path, int flags, ...)
{
	static int (*next)(const char *, int, ...);
	va_list rest;
	mode_t mode;
	if (!next)
		next = dlsym(RTLD_NEXT, "open64");
	va_start(rest, flags);
	mode = va_arg(rest, mode_t);
	va_end(rest);
	if ((flags & O_CREAT) && strstr(path, ".ndjson") && fails(6, "open")) {
		errno = ENOSPC;
		return -1;
	}
	return next(path, flags, mode);
}
