/** exim as the mail server of a host, which forwards mail and sends bounces. */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { eximWith } from './exim.ts';
import { makeFolder } from './real-chain.ts';

/** What exim of a host does with mail. */
export interface EximHostOptions {
  /** The domain that it takes mail for. */
  readonly domain: string;
  /** Takes mail for all domains. */
  readonly relays?: boolean;
  /** Addresses by local part, to which it forwards. It has one mailbox, carol, and bounces mail for others. */
  readonly aliases?: Readonly<Record<string, string>>;
  /** The port on 127.0.0.1 that gets mail for SRS addresses in its domain; undefined for none. */
  readonly srsPort?: number;
  /** Other domains, and the ports of their mail servers on 127.0.0.1. */
  readonly mx: Readonly<Record<string, number>>;
}

/** A host with exim, which is started for each connection. */
export interface EximHost {
  /** Runs exim as an smtpd. */
  readonly command: readonly string[];
  /** Must be called before the first client comes. */
  configure(options: EximHostOptions): void;
  mailbox(): string;
  log(): string;
}

/** Makes a host, with all its files in a folder of its own. It takes mail for its domain only, unless it relays. */
export function makeEximHost(t: TestContext): EximHost {
  const folder = makeFolder(t);
  const configuration = join(folder, 'exim.conf');
  const read = (name: string): string => {
    const path = join(folder, name);
    return existsSync(path) ? readFileSync(path, 'latin1') : '';
  };
  return {
    command: eximWith(folder, configuration),
    configure: (options) => writeFileSync(configuration, configurationFor(folder, options)),
    mailbox: () => read('mailbox'),
    log: () => read('mainlog'),
  };
}

function configurationFor(
  folder: string,
  { domain, relays = false, aliases = {}, srsPort, mx }: EximHostOptions,
): string {
  const redirects = Object.entries(aliases).map(
    ([local, address]) => `
alias_${local}:
  driver = redirect
  domains = ${domain}
  local_parts = ${local}
  data = ${address}
`,
  );
  const hosts = Object.entries(mx).map(([name, port]) => `${name} 127.0.0.1::${port}`);
  const unpacked = `
unpacked:
  driver = manualroute
  domains = ${domain}
  local_parts = \\N^(?i)SRS[01][-+=]\\N
  route_list = * 127.0.0.1::${srsPort}
  self = send
  transport = smtp
`;
  return `
primary_hostname = ${domain}
spool_directory = ${folder}/spool
log_file_path = ${folder}/%slog
tls_advertise_hosts =
acl_smtp_rcpt = check_rcpt
keep_environment =
deliver_drop_privilege
begin acl
check_rcpt:
  accept domains = ${relays ? '*' : domain}
  deny message = relay not permitted
begin routers
${srsPort === undefined ? '' : unpacked}${redirects.join('')}
mailbox:
  driver = accept
  domains = ${domain}
  local_parts = carol
  transport = mailbox
remote:
  driver = manualroute
  domains = ! ${domain}
  route_list = ${hosts.join(' ; ')}
  self = send
  transport = smtp
begin transports
mailbox:
  driver = appendfile
  file = ${folder}/mailbox
  return_path_add
smtp:
  driver = smtp
  allow_localhost
`;
}
