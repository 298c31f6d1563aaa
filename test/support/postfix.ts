import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { Pair } from './certificate.ts';
import { daemonFolder, startDaemon } from './daemon.ts';
import { idsOf } from './ids.ts';
import { until } from './processes.ts';
import { missing } from './programs.ts';
import { closedPort } from './tcp.ts';
import { DEADLINE } from './within.ts';

/** Debian's package conflicts with exim's, so .ci/run only unpacks it, here. */
const UNPACKED = '/opt/postfix';
const MASTER = 'usr/lib/postfix/sbin/master';

/** The reason to skip a test that needs Postfix; see `missing`. */
export function noPostfix(): string | false {
  if (process.getuid?.() !== 0) return 'Postfix is started by root alone';
  return existsSync(join('/', MASTER)) ? false : missing(join(UNPACKED, MASTER));
}

/** What Postfix does with mail. */
export interface PostfixOptions {
  /** Its certificate; without one it does not offer STARTTLS. */
  readonly pair?: Pair;
  /** The socket of Dovecot's authentication. With it, mail is taken only from those who have authenticated in TLS. */
  readonly authSocket?: string;
  /**
   * A transport and a next hop, `smtp:[127.0.0.1]:2525` for example, for all mail but that for example.org. Without it,
   * mail for example.net is delivered here.
   */
  readonly next?: string;
  /** To how many recipients it sends a message at once; 50 by default. */
  readonly recipientLimit?: number;
  /** Lines for the end of main.cf, where they replace earlier ones. */
  readonly lines?: string;
}

/** A running Postfix. */
export interface Postfix {
  readonly port: number;
  log(): string;
  /** The messages that were delivered here. */
  mails(): string[];
}

/** Starts Postfix on a port of 127.0.0.1, with all its files in a folder of its own, until the end of the test. */
export async function startPostfix(t: TestContext, options: PostfixOptions): Promise<Postfix> {
  const folder = daemonFolder();
  const path = (...names: string[]): string => join(folder, ...names);
  const root = existsSync(join('/', MASTER)) ? '/' : UNPACKED;
  const port = await closedPort();
  makeFolders(folder);
  writeFileSync(path('conf/master.cf'), masterConfiguration(port));
  writeFileSync(path('conf/main.cf'), mainConfiguration(folder, root, options));
  const read = (name: string): string => (existsSync(name) ? readFileSync(name, 'latin1') : '');
  const libraries = { LD_LIBRARY_PATH: join(root, 'usr/lib/postfix') };
  const master = startDaemon(t, folder, [join(root, MASTER), '-c', path('conf')], libraries);
  let hasEnded = false;
  void master.ended.then(() => {
    hasEnded = true;
  });
  const log = (): string => read(path('log'));
  await until('Postfix has started', () => hasEnded || log().includes(': daemon started '), DEADLINE);
  if (hasEnded) throw new Error(`Postfix has ended: ${master.stderr()}${log()}`);
  const inbox = path('mail/box/new');
  return {
    port,
    log,
    mails: () =>
      existsSync(inbox) ? readdirSync(inbox).map((name) => readFileSync(join(inbox, name), 'latin1')) : [],
  };
}

/** Users and a group that every Debian has. They must differ, and be those of no other server of the test. */
const [OWNER, GROUP, DELIVERER] = ['mail', 'uucp', 'nobody'] as const;

/** What `postfix start` would make, with the same owners and modes. */
function makeFolders(folder: string): void {
  const owner = idsOf(OWNER);
  const make = (name: string, uid: number, gid: number, mode: number): void => {
    const path = join(folder, name);
    mkdirSync(path);
    chownSync(path, uid, gid);
    chmodSync(path, mode);
  };
  for (const name of ['conf', 'queue', 'queue/pid']) make(name, 0, 0, 0o755);
  make('data', owner.uid, owner.gid, 0o700);
  make('mail', idsOf(DELIVERER).uid, idsOf(DELIVERER).gid, 0o700);
  for (const name of ['active', 'bounce', 'corrupt', 'defer', 'deferred', 'flush', 'hold', 'incoming']) {
    make(`queue/${name}`, owner.uid, 0, 0o700);
  }
  for (const name of ['private', 'saved', 'trace']) make(`queue/${name}`, owner.uid, 0, 0o700);
  make('queue/public', owner.uid, idsOf(GROUP).gid, 0o710);
  make('queue/maildrop', owner.uid, idsOf(GROUP).gid, 0o730);
}

function mainConfiguration(folder: string, root: string, options: PostfixOptions): string {
  const { pair, authSocket, next, recipientLimit = 50, lines = '' } = options;
  const libraries = join(root, 'usr/lib/postfix');
  const parameters = {
    compatibility_level: '3.6',
    command_directory: join(root, 'usr/sbin'),
    daemon_directory: join(libraries, 'sbin'),
    shlib_directory: libraries,
    meta_directory: join(folder, 'conf'),
    data_directory: join(folder, 'data'),
    queue_directory: join(folder, 'queue'),
    mail_owner: OWNER,
    setgid_group: GROUP,
    default_privs: DELIVERER,
    import_environment: `MAIL_CONFIG=${folder}/conf LD_LIBRARY_PATH=${libraries}`,
    maillog_file_prefixes: folder,
    maillog_file: join(folder, 'log'),
    inet_interfaces: 'loopback-only',
    inet_protocols: 'ipv4',
    myhostname: 'mail.example.org',
    mydestination: '',
    mynetworks: '127.0.0.0/8',
    smtpd_relay_restrictions: next === undefined ? 'reject_unauth_destination' : 'permit_mynetworks, reject',
    alias_maps: '',
    local_recipient_maps: '',
    virtual_mailbox_domains: next === undefined ? 'example.net' : 'example.org',
    virtual_mailbox_maps: 'static:box/',
    virtual_mailbox_base: join(folder, 'mail'),
    virtual_uid_maps: `static:${idsOf(DELIVERER).uid}`,
    virtual_gid_maps: `static:${idsOf(DELIVERER).gid}`,
    smtpd_tls_loglevel: '1',
    smtp_tls_loglevel: '1',
    smtp_tls_security_level: 'may',
    smtp_destination_recipient_limit: `${recipientLimit}`,
    disable_dns_lookups: 'yes',
    // Deferred mail is sent again soon. If that is while the delivery before still has the file locked, Postfix skips it,
    // and tries again only minutes later.
    queue_run_delay: '1s',
    minimal_backoff_time: '3s',
    maximal_backoff_time: '3s',
    ...(next !== undefined && { default_transport: next }),
    ...(pair !== undefined && {
      smtpd_tls_security_level: 'may',
      smtpd_tls_chain_files: `${pair.keyFile}, ${pair.certFile}`,
    }),
    ...(authSocket !== undefined && {
      smtpd_sasl_auth_enable: 'yes',
      smtpd_sasl_type: 'dovecot',
      smtpd_sasl_path: authSocket,
      smtpd_tls_auth_only: 'yes',
      smtpd_recipient_restrictions: 'permit_sasl_authenticated, reject',
    }),
  };
  const texts = Object.entries(parameters).map(([name, value]) => `${name} = ${value}\n`);
  return `${texts.join('')}${lines}`;
}

/** Debian's services, without those that nothing here needs, and without chroot. */
function masterConfiguration(port: number): string {
  return `127.0.0.1:${port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`;
}
