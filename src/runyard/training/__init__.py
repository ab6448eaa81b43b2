"""Training tasks as K12AI knows them: requests, codes, commands, endings, messages. Pure rules, without I/O."""
