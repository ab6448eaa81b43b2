"""The built-in units (modelbox.md 6). A module is imported when one of its units is used."""

BUILTIN = {
    "base64_decoder": "runyard.flow.units.base64_decoder:Base64Decoder",
    "buff_meta_mapping": "runyard.flow.units.buff_meta_mapping:BuffMetaMapping",
    "data_source_generator": "runyard.flow.units.data_source_generator:DataSourceGenerator",
    "httpserver_sync_receive": "runyard.flow.units.http.receive:HttpSyncReceive",
    "httpserver_sync_reply": "runyard.flow.units.http.reply:HttpSyncReply",
    "httpserver_async": "runyard.flow.units.http.receive:HttpAsync",
    "image_decoder": "runyard.flow.units.image_decoder:ImageDecoder",
    "resize": "runyard.flow.units.resize:Resize",
}
"""Unit name → `module:Class`; the class has its `UnitInfo` as `info`."""
