/*
 * An smtpd that costs next to nothing: what is measured is the programs around it.
 *
 * It takes every command and every message and keeps nothing. The bench compiles it, static where that can be
 * done, because to load a C library is most of what it costs. null-smtpd.sh is for where there is no compiler.
 */
#include <string.h>
#include <strings.h>
#include <unistd.h>

static char input[65536];
static size_t filled;

static void say(const char *reply) {
  if (write(1, reply, strlen(reply)) < 0) _exit(1);
}

/* Reads more; the end of the input ends the program. */
static void fill(void) {
  if (filled == sizeof input) _exit(1);
  ssize_t count = read(0, input + filled, sizeof input - filled);
  if (count <= 0) _exit(0);
  filled += (size_t)count;
}

static void drop(size_t count) {
  filled -= count;
  memmove(input, input + count, filled);
}

/* Reads up to the line with the dot. The client waits for the reply, so nothing is behind it. */
static void swallow_message(void) {
  static const char mark[] = "\r\n.\r\n";
  const size_t length = sizeof mark - 1;
  while (filled < length || memcmp(input + filled - length, mark, length) != 0) {
    /* The mark may come in two pieces. */
    if (filled >= length) drop(filled - (length - 1));
    fill();
  }
  filled = 0;
}

int main(void) {
  say("220 null.example ESMTP\r\n");
  for (;;) {
    char *end;
    while ((end = memchr(input, '\n', filled)) == NULL) fill();
    char letter = input[0] | 0x20;
    /* The whole word: to take another command for it is to wait for a message that does not come. */
    int isData = strncasecmp(input, "data", 4) == 0 && strchr("\r\n ", input[4]) != NULL;
    drop((size_t)(end - input) + 1);
    if (letter == 'e') say("250-null.example\r\n250 8BITMIME\r\n");
    else if (letter == 'q') {
      say("221 2.0.0 bye\r\n");
      return 0;
    } else if (isData) {
      say("354 go on\r\n");
      swallow_message();
      say("250 2.0.0 taken\r\n");
    } else say("250 2.0.0 ok\r\n");
  }
}
