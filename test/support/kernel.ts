import { readFileSync } from 'node:fs';

/**
 * How many octets have arrived over a TCP connection of 127.0.0.1 and were not read yet.
 *
 * @param port of the side that could read them.
 * @param peer the port of the other side.
 */
export function unreadOctets(port: number, peer: number): number {
  const { queues } = connectionBetween(port, peer);
  return Number.parseInt(queues.split(':')[1] ?? '', 16);
}

/** The timer that runs on one side of a TCP connection of 127.0.0.1. That of retransmission comes before the others. */
export function runningTimer(port: number, peer: number): 'none' | 'retransmission' | 'keepalive' | 'other' {
  const number = Number.parseInt(connectionBetween(port, peer).timer, 16);
  return (['none', 'retransmission', 'keepalive'] as const)[number] ?? 'other';
}

/** Two columns of /proc/net/tcp, in hexadecimal numbers. */
function connectionBetween(port: number, peer: number): { readonly queues: string; readonly timer: string } {
  for (const line of readFileSync('/proc/net/tcp', 'latin1').split('\n')) {
    const [, local = '', remote = '', , queues = '', timer = ''] = line.trim().split(/\s+/);
    if (portOf(local) === port && portOf(remote) === peer) return { queues, timer };
  }
  throw new Error(`no connection from ${port} to ${peer}`);
}

function portOf(address: string): number {
  return Number.parseInt(address.split(':')[1] ?? '', 16);
}
