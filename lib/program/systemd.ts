/**
 * The environment without the variables that systemd sets for this process alone: its listening sockets
 * (sd_listen_fds(3)), the notification socket (sd_notify(3)) and the watchdog (sd_watchdog_enabled(3)).
 */
export function withoutSystemdVariables(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, NOTIFY_SOCKET, WATCHDOG_PID, WATCHDOG_USEC, ...rest } =
    environment;
  return rest;
}
