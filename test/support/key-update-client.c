/*
 * A client that floods a server with TLS 1.3 KeyUpdate messages that ask for an answer each, and reads nothing.
 * Neither openssl s_client nor Node can send more than one at a time.
 *
 *     key-update-client PORT COMMAND DATA
 *
 * COMMAND: what is sent in cleartext first, STARTTLS as a rule; empty for TLS from the first octet on. Every
 * KeyUpdate is followed by DATA, which may be empty. Exits with 0 when the server has closed the connection.
 */
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int connect_to(int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  /* Small, so that the answers soon have no room. */
  int room = 4096, fd = socket(AF_INET, SOCK_STREAM, 0);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  return connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ? -1 : fd;
}

/* Reads up to the end of a line. */
static void read_line(int fd) {
  char octet = 0;
  while (octet != '\n' && read(fd, &octet, 1) == 1);
}

int main(int argc, char **argv) {
  if (argc != 4) return 100;
  signal(SIGPIPE, SIG_IGN);
  int fd = connect_to(atoi(argv[1]));
  if (fd < 0) return 111;
  if (argv[2][0] != 0) {
    read_line(fd);
    dprintf(fd, "%s\r\n", argv[2]);
    read_line(fd);
  }
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  SSL *tls = SSL_new(context);
  SSL_set_fd(tls, fd);
  if (SSL_connect(tls) != 1) return 111;
  puts("flooding");
  fflush(stdout);
  for (;;) {
    if (SSL_key_update(tls, SSL_KEY_UPDATE_REQUESTED) != 1) return 111;
    if (SSL_do_handshake(tls) != 1) return 0;
    if (argv[3][0] != 0 && SSL_write(tls, argv[3], strlen(argv[3])) <= 0) return 0;
  }
}
