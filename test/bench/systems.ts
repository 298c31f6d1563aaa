/** The systems that are compared: ways to put STARTTLS in front of an smtpd. */
import { closeSync, existsSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Pair } from '../support/certificate.ts';
import { ROOT } from '../support/programs.ts';
import { freePort, type Launch } from './daemon.ts';
import { onPath } from './path.ts';
import type { Smtpd } from './smtpd.ts';

/** What a system is to be started with. */
export interface Scene {
  readonly smtpd: Smtpd;
  readonly pair: Pair;
  /** For what it needs as files; there may be others in it. */
  readonly folder: string;
}

/** A way to put STARTTLS in front of an smtpd. */
export interface System {
  /** As --only names it. */
  readonly name: string;
  /** As the table names it. */
  readonly title: string;
  /** A floor is no peer: it does less than the task, to show what no program that does it can save. */
  readonly kind: 'ours' | 'peer' | 'floor';
  /** Whether it knows no STARTTLS, so that only measures in cleartext can be taken of it. */
  readonly cleartext: boolean;
  /** Whether it takes messages; one that does not cannot be measured with them. */
  readonly takesMail: boolean;
  /** What is to be known with each figure. May be empty. */
  readonly note: string;
  /** Whether it is to run on all cores instead of the one of the servers. */
  readonly allCores: boolean;
  /** How many idle sessions are opened at the most. */
  readonly idleLimit: number;
  /** How many sessions at a time keep its core busy. */
  readonly concurrency: number;
  /** Why it cannot be started here, "not installed" as a rule; undefined when it can. */
  readonly absent: string | undefined;
  launch(scene: Scene): Launch | Promise<Launch>;
}

/** As many sessions as no measure has. */
const SESSIONS = '6000';

/**
 * As many smtpds as no measure has with --on-demand. Without a limit the server expects one for each session, with
 * three descriptors, and takes fewer sessions where descriptors are few.
 */
const SMTPDS = '500';

/** A thousand sessions are four thousand processes for some. */
const IDLE_LIMIT = 1000;

/** For a system that has no process for an idle session: no limit but that of the measure. */
const IDLE_WITHOUT_PROCESS = Number.POSITIVE_INFINITY;

/** What keeps a server busy that does not wait on its own account. */
const CONCURRENCY = 8;

/**
 * stunnel waits 200 ms in each session for a client that speaks first: with 8 at a time its core would be
 * idle, and its figure would be that of the wait.
 */
const STUNNEL_CONCURRENCY = 128;

/** No look-ups of names, no TCPREMOTEINFO, and the port on stdout. */
const TCPSERVER = ['tcpserver', '-HRDl0', '-c', SESSIONS, '-1', '127.0.0.1', '0'];

/** The programs of the systems "least" and "least-on-demand". */
const LEAST = fileURLToPath(new URL('least.mjs', import.meta.url));
const LEAST_ON_DEMAND = fileURLToPath(new URL('least-on-demand.mjs', import.meta.url));

/** In place of the file of keys. */
const KEYS = 'KEYS';

/** Options that put an envelope around smtpd, by name. */
const ENVELOPES: readonly (readonly [name: string, ...options: string[]])[] = [
  ['received', '--received', 'mx.example.com'],
  ['strict-newlines', '--strict-newlines'],
  ['srs', '--srs', 'srs.example.com', '--srs-keys', KEYS],
];

/** All systems: ours, the peers, the floors. */
export function listSystems(): readonly System[] {
  const server = built('smtpd-starttls-server');
  const proxy = built('smtpd-starttls-proxy');
  const shim = built('smtpd-starttls-proxy-io');
  const tlsd = built('ucspi-tlsd');
  const listen = [server.path, '-c', SESSIONS, '-1'];
  const cShim = onPath('smtpd-starttls-proxy-io') ?? '';
  const cShimMissing = isBinary(cShim) ? undefined : 'not installed: a C smtpd-starttls-proxy-io';
  return [
    {
      ...OURS,
      name: 'server',
      title: 'smtpd-starttls-server, 1 worker',
      absent: server.absent,
      launch: (scene) => ourLaunch(scene, [...listen, '127.0.0.1', '0']),
    },
    {
      ...OURS,
      name: 'server-on-demand',
      title: 'smtpd-starttls-server --on-demand, 1 worker',
      idleLimit: IDLE_WITHOUT_PROCESS,
      absent: server.absent,
      launch: (scene) => ourLaunch(scene, [...listen, '--on-demand', '--smtpds', SMTPDS, '127.0.0.1', '0']),
    },
    ...ENVELOPES.map(([name, ...options]) => ({
      ...OURS,
      name: `server-${name}`,
      title: `smtpd-starttls-server --${name}, 1 worker`,
      note: 'follows the session to its end',
      absent: server.absent,
      launch: (scene: Scene) => {
        const keys = join(scene.folder, 'srs-keys');
        writeFileSync(keys, 'tops3cr3t\n', { mode: 0o600 });
        const words = options.map((word) => (word === KEYS ? keys : word));
        return ourLaunch(scene, [...listen, ...words, '127.0.0.1', '0']);
      },
    })),
    {
      ...OURS,
      name: 'server-cores',
      title: 'smtpd-starttls-server, a worker a core',
      allCores: true,
      absent: server.absent,
      launch: (scene) => ourLaunch(scene, [...listen, '--workers', '0', '127.0.0.1', '0']),
    },
    {
      ...OURS,
      name: 'proxy',
      title: 'tcpserver + smtpd-starttls-proxy',
      absent: proxy.absent ?? missing('tcpserver'),
      launch: (scene) => ourLaunch(scene, [...TCPSERVER, proxy.path]),
    },
    {
      ...OURS,
      name: 'chain',
      title: 'tcpserver + ucspi-tlsd + smtpd-starttls-proxy-io',
      absent: tlsd.absent ?? shim.absent ?? missing('tcpserver'),
      launch: (scene) => ourLaunch(scene, [...TCPSERVER, tlsd.path, shim.path]),
    },
    {
      ...PEER,
      name: 'tlswrapper',
      title: 'tcpserver + tlswrapper + tlswrapper-smtp',
      absent: missing('tcpserver', 'tlswrapper', 'tlswrapper-smtp'),
      launch: launchTlswrapper,
    },
    {
      ...PEER,
      name: 'stunnel',
      title: 'stunnel4, protocol = smtp, exec',
      concurrency: STUNNEL_CONCURRENCY,
      absent: missing('stunnel4'),
      launch: launchStunnel,
    },
    {
      ...PEER,
      name: 's6-ucspitlsd',
      title: 'tcpserver + s6-ucspitlsd + the C smtpd-starttls-proxy-io',
      absent: missing('tcpserver', 's6-ucspitlsd') ?? cShimMissing,
      launch: (scene) => ourLaunch(scene, [...TCPSERVER, 's6-ucspitlsd', cShim]),
    },
    {
      ...PEER,
      name: 'sslserver',
      title: 'sslserver -n + the C smtpd-starttls-proxy-io',
      absent: missing('sslserver') ?? cShimMissing,
      launch: (scene) => ourLaunch(scene, ['sslserver', '-n', ...TCPSERVER.slice(1), cShim]),
    },
    {
      ...FLOOR,
      name: 'least',
      title: 'the least in Node: no checks',
      note: 'a floor for what is written for Node',
      absent: undefined,
      launch: (scene) => ourLaunch(scene, [process.execPath, LEAST]),
    },
    {
      ...FLOOR,
      name: 'least-on-demand',
      title: 'the least on demand in Node: starts nothing',
      takesMail: false,
      idleLimit: IDLE_WITHOUT_PROCESS,
      note: 'a floor for --on-demand: no messages',
      absent: undefined,
      launch: (scene) => ourLaunch(scene, [process.execPath, LEAST_ON_DEMAND]),
    },
    {
      ...FLOOR,
      name: 'tcpserver',
      title: 'tcpserver + smtpd, no TLS, no STARTTLS',
      cleartext: true,
      note: 'a floor for what tcpserver starts: cleartext only',
      absent: missing('tcpserver'),
      launch: ({ smtpd }) => ({ command: [...TCPSERVER, ...smtpd.command], env: {} }),
    },
  ];
}

const USUAL = {
  cleartext: false,
  takesMail: true,
  idleLimit: IDLE_LIMIT,
  note: '',
  allCores: false,
  concurrency: CONCURRENCY,
};
const OURS = { ...USUAL, kind: 'ours' } as const;
const PEER = { ...USUAL, kind: 'peer' } as const;
const FLOOR = { ...USUAL, kind: 'floor' } as const;

/** All but tlswrapper and stunnel know these two variables. */
function ourLaunch({ smtpd, pair }: Scene, command: readonly string[]): Launch {
  return {
    command: [...command, ...smtpd.command],
    env: { CERTFILE: pair.certFile, KEYFILE: pair.keyFile },
  };
}

/** It takes key and certificate in one file. */
function launchTlswrapper({ smtpd, pair, folder }: Scene): Launch {
  const file = join(folder, 'tlswrapper.pem');
  writeFileSync(file, readFileSync(pair.keyFile, 'latin1') + readFileSync(pair.certFile, 'latin1'), {
    mode: 0o600,
  });
  const chain = ['tlswrapper', '-n', '-f', file, 'tlswrapper-smtp'];
  return { command: [...TCPSERVER, ...chain, ...smtpd.command], env: {} };
}

/** Spared what the others do not do either: log, access lists, a file with its number. */
async function launchStunnel({ smtpd, pair, folder }: Scene): Promise<Launch> {
  const file = join(folder, 'stunnel.conf');
  const port = await freePort();
  const settings = [
    ...['foreground = yes', 'debug = err', 'syslog = no', 'pid =', '[smtp]', 'libwrap = no'],
    ...['protocol = smtp', `accept = 127.0.0.1:${port}`, `cert = ${pair.certFile}`, `key = ${pair.keyFile}`],
    ...[`exec = ${smtpd.command[0]}`, `execArgs = ${smtpd.command.join(' ')}`],
  ];
  writeFileSync(file, `${settings.join('\n')}\n`);
  return { command: ['stunnel4', file], env: {}, port };
}

function built(name: string): { path: string; absent: string | undefined } {
  const path = join(ROOT, 'dist/bin', name);
  return { path, absent: existsSync(path) ? undefined : `not built: ${name}` };
}

function missing(...names: string[]): string | undefined {
  const absent = names.filter((name) => onPath(name) === undefined);
  return absent.length === 0 ? undefined : `not installed: ${absent.join(', ')}`;
}

/** Whether a file is a compiled program: our own shim has the name of the C one. */
function isBinary(path: string): boolean {
  if (path === '') return false;
  const start = Buffer.alloc(4);
  const fd = openSync(path, 'r');
  readSync(fd, start);
  closeSync(fd);
  return start.toString('latin1') === '\x7fELF';
}
