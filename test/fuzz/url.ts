/**
 * One generated URL of a server to pass mail on to. It is refused by a usage error that does not repeat a password, or it
 * keeps the promise of its scheme and gives ssh nothing but words.
 */

import { isIPv6 } from 'node:net';
import { Failure } from '../../lib/program/failure.ts';
import type { SshTarget } from '../../lib/smtpd/relay/ssh-url.ts';
import { parseRelayUrl, type RelayTarget, type Way } from '../../lib/smtpd/relay/url.ts';
import { mutate } from './input.ts';
import { createRandom, type Random } from './random.ts';
import type { Play } from './run.ts';
import { check, checkSame } from './violation.ts';

/** How TLS starts on each way: written a second time. Those with "!" must verify. */
const PROMISES: Readonly<Record<string, string>> = {
  'smtp+tls': 'if-offered never',
  smtp: 'never',
  tls: 'required!',
  smtps: 'implicit!',
  ssl: 'required! implicit!',
  lmtp: 'never',
};

const SECRET = 'hunter2';

/** Parses one URL. */
export const playUrl: Play = (seed, number) => {
  const random = createRandom(seed, number);
  const { url, hasSecret } = generate(random);
  try {
    const target = parse(url, hasSecret);
    if (target !== undefined) checkTarget(target, url);
  } catch (error) {
    if (error instanceof Error) error.message = `${JSON.stringify(url)}: ${error.message}`;
    throw error;
  }
};

function parse(url: string, hasSecret: boolean): RelayTarget | undefined {
  try {
    return parseRelayUrl(url);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    checkSame(String(error.status), '100', 'exit status: ');
    check(!hasSecret || !error.message.includes(SECRET), `no password in ${JSON.stringify(error.message)}`);
    return undefined;
  }
}

function checkTarget({ ways }: RelayTarget, url: string): void {
  const scheme = url.slice(0, url.indexOf(':')).toLowerCase();
  const [first] = ways;
  if ('ssh' in first) {
    checkSame(scheme, 'ssh');
    return checkSsh(first.ssh);
  }
  if ('backup' in first) {
    checkSame(scheme, 'backup');
    return check(/^[\w.-]+$/.test(first.backup) && first.port > 0, `${first.backup} is a name`);
  }
  const all = ways.flatMap((way) => ('address' in way ? [way] : []));
  const promised = all.map(({ tls, mustVerify }) => `${tls}${mustVerify ? '!' : ''}`).join(' ');
  checkSame(promised, PROMISES[scheme.replace('+unix', '')] ?? 'no such scheme');
  for (const way of all) checkWay(way, scheme.endsWith('+unix'));
}

function checkWay({ address }: Way, isUnix: boolean): void {
  checkSame(String('path' in address), String(isUnix));
  if ('path' in address) return check(/^\/.{0,106}$/s.test(address.path), 'the path is absolute');
  const { host, port } = address;
  check(isIPv6(host) || /^[\w.-]+$/.test(host), `${host} is an address or a name`);
  check(Number.isInteger(port) && port > 0 && port < 65536, `${port} is a port`);
}

function checkSsh({ host, user, port, action }: SshTarget): void {
  for (const word of user === undefined ? [host] : [host, user]) {
    check(/^[^-]/.test(word), `${word} is no option`);
    check(!/[\s\p{Cc}'"`;&<>|(){}]/u.test(word), `a shell would take ${word} as it is`);
  }
  check(!/[$\\]/.test(host), `a shell would take ${host} as it is`);
  check(user?.includes(':') !== true, 'a password is not the name of a user');
  check(port === undefined || (port > 0 && port < 65536), `${port} is a port`);
  if (action.type === 'run') check(!/^-|\p{Cc}/u.test(action.command), `${action.command} is no option`);
  else check(/^[-\w[].*:\d+$/.test(action.address), `${action.address} is an address`);
}

const SCHEMES = ['ssh', 'ssh', 'ssh', 'backup', ...Object.keys(PROMISES)] as const;
const HOSTS = [
  'mail.example',
  '192.0.2.1',
  '[::1]',
  '[fe80::1%eth0]',
  'localhost',
  '0',
  '-oProxyCommand=x',
] as const;
const PORTS = ['', '', ':25', ':587,465', ':smtp', ':0', ':70000', ':'] as const;
const TAILS = [
  '',
  '',
  '/',
  '/sendmail%20-bs',
  '/-oProxyCommand=x',
  '?connect=mail:25',
  '#x',
  '/%0a',
] as const;
const USERS = ['alice', 'alice%40mail.example', '-lroot', '%2dlroot', '$(id)', 'DOMAIN\\alice', ''] as const;
const INSERTED = [
  '@',
  '/',
  '?',
  '#',
  '%40',
  '%3a',
  '%2d',
  '%00',
  '-',
  ' ',
  ':',
  '\n',
  '[',
  '`',
  '$',
  'é',
] as const;

/** @returns the URL, and whether there is a password in the place for it. */
function generate(random: Random): { url: string; hasSecret: boolean } {
  const scheme = random.pick(SCHEMES);
  if (random.chance(15))
    return { url: broken(`${scheme}+unix:/run/${random.pick(HOSTS)}`, random), hasSecret: false };
  const hasSecret = random.chance(30);
  const start = `${scheme}${random.pick(['://', '://', '://', ':', '+unix://', '+unix:'])}`;
  const place = broken(`${random.pick(HOSTS)}${random.pick(PORTS)}${random.pick(TAILS)}`, random);
  if (!hasSecret)
    return { url: `${start}${random.chance(30) ? `${random.pick(USERS)}@` : ''}${place}`, hasSecret };
  // Its user and its password may have anything in them, and the host be missing.
  const password = `${random.chance(30) ? random.pick(INSERTED) : ''}${SECRET}`;
  const login = `${random.pick(USERS)}${random.pick([':', ':', '%3a'])}${password}`;
  return {
    url: `${start}${login}${random.pick(['@', '@', '%40'])}${random.chance(80) ? place : ''}`,
    hasSecret,
  };
}

/** Changes it somewhere, in some cases. */
function broken(text: string, random: Random): string {
  if (random.chance(50)) return text;
  if (random.chance(50)) return mutate(text, random);
  const at = random.below(text.length + 1);
  return text.slice(0, at) + random.pick(INSERTED) + text.slice(at);
}
