MAILER_DEFINITIONS
Mssh,	P=/usr/local/bin/smtp-relay-io, F=mDFMuX8, S=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP, E=\r\n, L=990,
	T=DNS/RFC822/SMTP, U=bsmtp:bsmtp,
	A=smtp-relay-io ssh://bsmtp@$h
LOCAL_CONFIG
EPATH=/usr/local/bin:/usr/bin:/bin
