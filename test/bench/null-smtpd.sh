#!/bin/sh
# What null-smtpd.c is, for where there is no compiler. Built-in commands only, but for a message: read takes
# an octet a system call. sed stops at the dot; the client waits for the reply, so nothing is behind it.
printf '220 null.example ESMTP\r\n'
while read -r command; do
  case $command in
    [Ee]*) printf '250-null.example\r\n250 8BITMIME\r\n' ;;
    [Qq]*) printf '221 2.0.0 bye\r\n'; exit ;;
    [Dd]*) printf '354 go on\r\n'; LC_ALL=C sed -n '/^\.\r$/q'; printf '250 2.0.0 taken\r\n' ;;
    *) printf '250 2.0.0 ok\r\n' ;;
  esac
done
